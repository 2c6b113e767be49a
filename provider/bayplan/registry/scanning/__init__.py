"""Basic scans of images: the packages of dpkg and apk in their layers, against a vulnerability database that is given as a file."""
