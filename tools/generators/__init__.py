"""What is made from the schemas, a module each. Each gives texts; tools/generate.py writes or compares them."""
