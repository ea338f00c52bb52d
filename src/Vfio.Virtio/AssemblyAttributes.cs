using System.Runtime.CompilerServices;

// Batch buffers live on the stack; zeroing them at each poll would cost more than the poll.
[module: SkipLocalsInit]
