"""IP addresses as others write them. Pure."""


def address(ip: str) -> str:
    """An address as compose and URLs write it: IPv6 in brackets, every address as 0.0.0.0."""
    return f"[{ip}]" if ":" in ip else ip or "0.0.0.0"
