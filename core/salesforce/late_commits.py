"""How long a write may stay unseen. Read as `late_commits.…`, so that a test with an org that shows
everything at once can shorten them.

Pure: constants only."""

from datetime import timedelta

LATE_COMMIT = timedelta(minutes=11)
"""A call may take ten minutes, and what it writes shows only then (limits quick reference, "API Request
Limits")."""
LONGEST_RENEWAL = timedelta(minutes=2)
"""A call whose session took longer to renew is not made: it would be on its way when it may be repeated."""
UNTIL_A_WRITE_SHOWS = LATE_COMMIT + timedelta(minutes=3)
"""From noting a write to the moment from which it may be repeated: before the call goes out, its session may
have to be renewed, and each try has its time-out."""
