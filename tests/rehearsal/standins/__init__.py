"""Stand-ins: each speaks the real protocol under the real host name."""
