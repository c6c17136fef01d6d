"""A state file of every version there was, as the server of that time wrote it; never to be written again."""
