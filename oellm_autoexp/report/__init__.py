"""Sessions and plans as one document, and that as a page, a picture and tables. Pure."""
