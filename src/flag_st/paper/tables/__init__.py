"""Tables: what each one computes, and how it is printed."""
