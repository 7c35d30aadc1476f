"""A server's prefix cache: blocks that running requests share, and free ones in order of use."""

from collections import Counter, OrderedDict

from bench.autoscaler.requests import PREFIX_TOKENS, Request


class PrefixCache:
    """Blocks of `PREFIX_TOKENS` by id, as vLLM keeps them: in use, or free until overwritten."""

    def __init__(self) -> None:
        self._users: Counter[int] = Counter()
        self._free: OrderedDict[int, None] = OrderedDict()

    @property
    def used_tokens(self) -> int:
        """Tokens in blocks that running requests hold."""
        return len(self._users) * PREFIX_TOKENS

    def hit_tokens(self, request: Request) -> int:
        """Tokens at the beginning of the prompt that need not be computed; never all of it."""
        hits = 0
        for block in request.prefix:
            if block not in self._users and block not in self._free:
                break
            hits += 1
        return min(hits * PREFIX_TOKENS, request.prompt_tokens - 1)

    def new_tokens(self, request: Request) -> int:
        """Tokens that the request would take from the free ones."""
        return PREFIX_TOKENS * sum(block not in self._users for block in request.prefix)

    def take(self, request: Request) -> None:
        """Hold the request's blocks."""
        for block in request.prefix:
            self._free.pop(block, None)
            self._users[block] += 1

    def give_back(self, request: Request) -> None:
        """Let go of them; those that nobody else holds stay until they are overwritten."""
        for block in reversed(request.prefix):
            self._users[block] -= 1
            if not self._users[block]:
                del self._users[block]
                self._free[block] = None

    def shrink(self, free_tokens: int) -> None:
        """Forget the free blocks used longest ago, beyond `free_tokens`."""
        while len(self._free) * PREFIX_TOKENS > free_tokens:
            self._free.popitem(last=False)
