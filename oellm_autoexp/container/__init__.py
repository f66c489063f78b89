"""Container images and runtimes: found, checked, looked into and built."""
