"""What replies are checked for before a client reads them."""
