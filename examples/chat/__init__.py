"""chat: a conversation in the terminal with a model that is loaded when needed, and goes when others need room."""
