"""The JSON Schema of configs, for editors: made of the typed sections and of what is registered."""
