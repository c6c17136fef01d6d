"""The search for secrets in what the integration tests left behind; bin/test runs it after them."""
