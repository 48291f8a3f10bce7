"""Searches for plans: how many tokens each layer needs, and the cheapest plan that loses no more than one allows."""
