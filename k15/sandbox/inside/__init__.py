"""Programs of ours that run inside boxes. They are sent as text, import nothing of k15, and keep to what
every Python 3.6 understands, because an image may have an old one."""
