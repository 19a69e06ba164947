"""The stage of the page: a visitor's drawings, charged for, and how they are shown."""
