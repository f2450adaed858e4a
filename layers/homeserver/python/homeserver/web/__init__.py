"""Between API Gateway and the services: requests, routing, authentication, errors."""
