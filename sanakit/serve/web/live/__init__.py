"""Drawing as one types: the tab Live, and the route that it asks with every key."""
