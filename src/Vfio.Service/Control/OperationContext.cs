using Vfio.Linux;

namespace Vfio.Service;

/// <summary>What goes along with a call of an operation besides its parameters.</summary>
/// <remarks>For one call.</remarks>
public sealed class OperationContext
{
    private readonly List<FileDescriptor> _answered = [];

    /// <summary>Ends the operation early; what it began is undone.</summary>
    public CancellationToken Cancellation { get; init; }

    /// <summary>Told how far a long operation is; may be called from any thread.</summary>
    public Action<ProgressReport>? Progress { get; init; }

    /// <summary>Descriptors that the caller hands over with the call: a file to write to. They stay the caller's.</summary>
    public IReadOnlyList<FileDescriptor> Descriptors { get; init; } = [];

    /// <summary>Descriptors that the operation hands back, in the order that its result tells. In the process that ran the
    /// operation they stay the engine's; a client owns those that it received.</summary>
    public IReadOnlyList<FileDescriptor> Answered => _answered;

    /// <summary>Takes what must be done when the caller's session ends, such as ending the use of a pool. Null where sessions do
    /// not end by themselves.</summary>
    public Action<Action>? Hold { get; init; }

    /// <summary>Hands a descriptor back.</summary>
    /// <param name="descriptor">The descriptor.</param>
    /// <returns>Its place in the answer.</returns>
    public int Answer(FileDescriptor descriptor)
    {
        _answered.Add(descriptor);
        return _answered.Count - 1;
    }
}

/// <summary>How far a long operation is.</summary>
/// <param name="Stage">What it is doing, such as <c>populating</c>.</param>
/// <param name="Done">Bytes done.</param>
/// <param name="Total">Bytes in all.</param>
public sealed record ProgressReport(string Stage, ulong Done, ulong Total);
