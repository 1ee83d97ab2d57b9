"""A bundle's engine over HTTP, on this machine: the KServe v2 protocol, pictures for plain clients, metrics."""
