"""Replicas come, go and are replaced under load, and not one request is lost."""

from demo.story import EDITED_FORMAT, Story


def test_load_brings_a_second_replica_and_its_end_takes_it_away(story: Story):
    with story.steady() as steady:
        story.grow(steady)
        story.shrink(steady)
        story.seen.steady = steady.stop()
    assert story.seen.replicas == [2, 1]
    story.check_requests()


def test_a_roll_out_under_load_loses_nothing(story: Story):
    """The new pods serve from the edited cache, the old ones finish what they have."""
    with story.steady() as steady:
        story.edit(steady)
        story.seen.steady = steady.stop()
    assert story.seen.after
    assert story.seen.after.format == EDITED_FORMAT
    assert story.seen.steady.sent > 0
    story.check_requests()
