"""Folders that we made whole and that nobody changes afterwards, and the manifests by which a change is seen."""
