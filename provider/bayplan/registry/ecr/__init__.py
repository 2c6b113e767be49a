"""The Amazon ECR API on the registry's own state: JSON 1.1 over signed requests (``AmazonEC2ContainerRegistry_V20150921``).

- :mod:`.shapes` -- the API's model, as botocore ships it: operations, shapes, limits; parameters are checked against it.
- :mod:`.face` -- one call in, one answer out; :mod:`.operations` -- how an operation is written.
- :mod:`.repositories`, :mod:`.images`, :mod:`.layers`, :mod:`.settings`, ... -- the operations.
"""
