"""What a scenario holds in its hands: the operator's commands, the proof, canaries, watchers, kills."""
