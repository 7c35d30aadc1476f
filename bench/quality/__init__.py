"""Quality on a model that learned something: its training, and what each cache format costs it."""
