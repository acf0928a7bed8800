"""One loss per idea. The temporal-difference loss serves every mixer."""
