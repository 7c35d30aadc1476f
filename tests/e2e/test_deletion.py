"""Deleting a resource removes everything that belongs to it."""

from demo.story import Story


def test_nothing_is_left(story: Story):
    """The finalizer is released; no child and no pod stays."""
    story.delete()
    assert story.left_over() == []
