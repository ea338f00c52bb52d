namespace Vfio.VhostUser;

/// <summary>Accesses that were refused. Each is reported once, until its range is told or taken anew; one whose report could not be
/// sent, at the next chance.</summary>
/// <remarks>For one thread at a time.</remarks>
internal sealed class IotlbRefusals
{
    /// <summary>As many are remembered. A refusal stops its ring: more are a guest's that starts rings again and again.</summary>
    public const int Most = 1024;

    private readonly HashSet<IotlbQuestion> _sent = [];
    private readonly HashSet<IotlbQuestion> _unsent = [];

    /// <summary>Refusals that nobody was told of: so many others could not be sent.</summary>
    public long Unreported { get; private set; }

    /// <summary>Whether some are to be sent at the next chance.</summary>
    public bool HasUnsent => _unsent.Count != 0;

    /// <summary>Takes a refusal in.</summary>
    /// <param name="refusal">The refusal.</param>
    /// <returns>Whether it is to be sent now; then it counts as sent.</returns>
    public bool Note(IotlbQuestion refusal)
    {
        if (_sent.Contains(refusal))
        {
            return false;
        }

        if (!_unsent.Remove(refusal) && _sent.Count + _unsent.Count == Most)
        {
            if (_unsent.Count == Most)
            {
                Unreported++;
                return false;
            }

            // Told twice is better than not at all.
            _sent.Clear();
        }

        return _sent.Add(refusal);
    }

    /// <summary>Takes refusals back that could not be sent.</summary>
    /// <param name="refusal">What <see cref="Note"/> or <see cref="TakeUnsent"/> said to send.</param>
    public void GiveBack(IotlbQuestion refusal)
    {
        // One that is not there was forgiven meanwhile, or forgotten with all others as there were too many.
        if (_sent.Remove(refusal))
        {
            _unsent.Add(refusal);
        }
    }

    /// <summary>Takes refusals that are still to be sent; they count as sent.</summary>
    /// <param name="send">Filled from the front.</param>
    /// <returns>How many.</returns>
    public int TakeUnsent(Span<IotlbQuestion> send)
    {
        int count = 0;
        foreach (IotlbQuestion refusal in _unsent)
        {
            if (count == send.Length)
            {
                break;
            }

            send[count++] = refusal;
            _unsent.Remove(refusal);
            _sent.Add(refusal);
        }

        return count;
    }

    /// <summary>Forgets those that start in a range of pages.</summary>
    /// <param name="first">The number of the first page.</param>
    /// <param name="pages">How many pages.</param>
    public void Forgive(ulong first, ulong pages)
    {
        Forgive(_sent, first, pages);
        Forgive(_unsent, first, pages);
    }

    /// <summary>Forgets all.</summary>
    public void Clear()
    {
        _sent.Clear();
        _unsent.Clear();
    }

    private static void Forgive(HashSet<IotlbQuestion> refusals, ulong first, ulong pages)
    {
        foreach (IotlbQuestion refusal in refusals)
        {
            if (unchecked((refusal.Address.Value / IotlbQuestion.PageSize) - first) < pages)
            {
                refusals.Remove(refusal);
            }
        }
    }
}
