"""Who may do what in the registry: accounts and keys, signed requests and tokens, policies and their evaluation.

- :mod:`.principal` -- who asks; :mod:`.accounts` -- the account of a root, its users and access keys.
- :mod:`.sigv4` -- signed requests of the ECR API; :mod:`.tokens` -- what `docker login` is given.
- :mod:`.policy` and :mod:`.conditions` -- IAM documents, read and evaluated; pure.
- :mod:`.guard` -- what both faces of the registry ask before they do anything.
"""
