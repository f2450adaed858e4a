"""The custom resource `Custom::ServerIdentity`: the set-up of a server, when it is deployed or started."""
