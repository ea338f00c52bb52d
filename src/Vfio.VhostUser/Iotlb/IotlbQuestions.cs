using System.Diagnostics;

namespace Vfio.VhostUser;

/// <summary>What was asked of the front-end: misses until they are answered, refusals until they are forgiven. Each is sent once,
/// whichever queue needs it. A miss that could not be sent is dropped, as the queue comes back for it; a refusal is kept, as the queue
/// that made it stands still.</summary>
/// <remarks>Thread-safe. Nothing is sent from in here: the caller sends, without any lock of the IOTLB.</remarks>
public sealed class IotlbQuestions
{
    /// <summary>As many misses wait at most. A queue of the largest size asks for no more at once; more would be a guest's flood, and is
    /// asked when there is room.</summary>
    internal const int MaxPending = 32768;

    private readonly Lock _asking = new();
    private readonly Dictionary<IotlbQuestion, Asked> _asked = [];
    private readonly IotlbRefusals _refusals = new();
    private readonly DeviceIotlb _iotlb;
    private readonly long _timeout;
    private readonly long _patience;
    private long _serial;
    private long _answered;
    private long _swept;
    private long _timedOut;
    private long _unasked;
    private int _insidePages;

    /// <summary>Nothing asked.</summary>
    /// <param name="iotlb">What the answers go to.</param>
    /// <param name="timeout">How long a question stands that a later one overtook: front-ends answer in order, and not at all what
    /// is not mapped at that moment.</param>
    /// <param name="patience">How long any other stands. Asked again while the answer is only late, the front-end may look when
    /// the guest uses the page for something else, which the guest's IOMMU reports as a fault of the device.</param>
    internal IotlbQuestions(DeviceIotlb iotlb, TimeSpan timeout, TimeSpan patience)
    {
        _iotlb = iotlb;
        Timeout = timeout;
        _timeout = (long)(timeout.TotalSeconds * Stopwatch.Frequency);
        _patience = (long)(patience.TotalSeconds * Stopwatch.Frequency);
    }

    /// <summary>How long an unanswered miss stands at least before it is asked again.</summary>
    public TimeSpan Timeout { get; }

    /// <summary>Misses that wait for an answer.</summary>
    public int Pending
    {
        get
        {
            lock (_asking)
            {
                return _asked.Count;
            }
        }
    }

    /// <summary>Misses that were not answered in time. A queue that still needs the page asks again.</summary>
    public long TimedOut => Read(in _timedOut);

    /// <summary>Misses that were not asked for, since so many others wait.</summary>
    public long Unasked => Read(in _unasked);

    /// <summary>Refusals that nobody was told of, since too many others could not be sent.</summary>
    public long Unreported
    {
        get
        {
            lock (_asking)
            {
                return _refusals.Unreported;
            }
        }
    }

    /// <summary>Whether a refusal could not be sent so far: the next <see cref="Pick(ReadOnlySpan{IotlbQuestion}, Span{IotlbQuestion})"/> gives it.</summary>
    public bool HasUnsent
    {
        get
        {
            lock (_asking)
            {
                return _refusals.HasUnsent;
            }
        }
    }

    /// <summary>Picks what is to be sent now: what is not answered by now, and not asked already or asked too long ago.</summary>
    /// <param name="wanted">What a burst needs; may hold the same more than once.</param>
    /// <param name="send">Filled from the front; at least as long as <paramref name="wanted"/>. Room beyond that is for refusals that could
    /// not be sent before.</param>
    /// <returns>How many to send. They count as asked; give back with <see cref="Drop"/> what could not be sent.</returns>
    public int Pick(ReadOnlySpan<IotlbQuestion> wanted, Span<IotlbQuestion> send) => Pick(wanted, send, out _);

    /// <summary>Picks what is to be sent now.</summary>
    /// <param name="wanted">What a burst needs; may hold the same more than once.</param>
    /// <param name="send">Filled from the front.</param>
    /// <param name="own">How many of them are of <paramref name="wanted"/>: the first ones.</param>
    /// <returns>How many to send.</returns>
    internal int Pick(ReadOnlySpan<IotlbQuestion> wanted, Span<IotlbQuestion> send, out int own)
    {
        long now = Stopwatch.GetTimestamp();
        own = 0;
        lock (_asking)
        {
            // Read in here: an update shows its snapshot first and then takes its question off the list. One that is off the list is
            // thus either answered in this snapshot or was never asked.
            IotlbSnapshot snapshot = _iotlb.Snapshot;
            foreach (IotlbQuestion question in wanted)
            {
                if (snapshot.TryFind(question.Address, out IotlbRange found) && (found.Access & question.Access) == question.Access)
                {
                    continue;
                }

                if (question.IsRefusal ? _refusals.Note(question) : MayAsk(question, now))
                {
                    send[own++] = question;
                }
            }

            return own + _refusals.TakeUnsent(send[own..]);
        }
    }

    /// <summary>Takes back what could not be sent, so that it is asked again, or reported at the next chance.</summary>
    /// <param name="unsent">What <see cref="Pick(ReadOnlySpan{IotlbQuestion}, Span{IotlbQuestion})"/> gave.</param>
    public void Drop(ReadOnlySpan<IotlbQuestion> unsent)
    {
        lock (_asking)
        {
            foreach (IotlbQuestion question in unsent)
            {
                if (question.IsRefusal)
                {
                    _refusals.GiveBack(question);
                }
                else
                {
                    Remove(question);
                }
            }
        }
    }

    /// <summary>Forgets the misses that were not answered in time; at most once in <see cref="Timeout"/>, as it looks at all of
    /// them.</summary>
    public void Expire()
    {
        lock (_asking)
        {
            // Not even the clock is read for nothing: a front-end waits meanwhile.
            if (_asked.Count != 0)
            {
                Expire(Stopwatch.GetTimestamp());
            }
        }
    }

    /// <summary>Forgets every question.</summary>
    public void Clear()
    {
        lock (_asking)
        {
            _asked.Clear();
            _refusals.Clear();
            _insidePages = 0;
        }
    }

    /// <summary>An update came: misses of the range are answered, and what was refused there may be allowed now.</summary>
    internal void Answer(IovaRange range) => Forget(range, misses: true);

    /// <summary>An invalidation came: what was refused is not known any more. A miss under way is still going to be answered.</summary>
    internal void Forgive(IovaRange range) => Forget(range, misses: false);

    private void Forget(IovaRange range, bool misses)
    {
        ulong first = range.First.Value / IotlbQuestion.PageSize;
        ulong pages = (range.Last.Value / IotlbQuestion.PageSize) - first + 1;
        lock (_asking)
        {
            _refusals.Forgive(first, pages);
            if (!misses || _asked.Count == 0)
            {
                return;
            }

            if (pages > (ulong)_asked.Count || _insidePages != 0)
            {
                foreach (IotlbQuestion question in _asked.Keys)
                {
                    if (unchecked((question.Address.Value / IotlbQuestion.PageSize) - first) < pages)
                    {
                        Answer(question);
                    }
                }

                return;
            }

            for (ulong i = 0; i < pages; i++)
            {
                var page = new Iova((first + i) * IotlbQuestion.PageSize);
                // ReadWrite: a packed ring's descriptors.
                for (DmaAccess access = DmaAccess.Read; access <= DmaAccess.ReadWrite; access++)
                {
                    Answer(new IotlbQuestion(page, access, false));
                }
            }
        }
    }

    private void Answer(IotlbQuestion question)
    {
        if (_asked.TryGetValue(question, out Asked asked))
        {
            _answered = Math.Max(_answered, asked.Serial);
            Remove(question);
        }
    }

    private bool MayAsk(IotlbQuestion question, long now)
    {
        if (_asked.TryGetValue(question, out Asked asked))
        {
            if (!IsOverdue(asked, now))
            {
                return false;
            }

            _timedOut++;
        }
        else
        {
            if (_asked.Count >= MaxPending)
            {
                Expire(now);
            }

            if (_asked.Count >= MaxPending)
            {
                _unasked++;
                return false;
            }

            _insidePages += IsInsidePage(question) ? 1 : 0;
        }

        _asked[question] = new Asked(now, _serial++);
        return true;
    }

    private void Expire(long now)
    {
        if (now - _swept < _timeout)
        {
            return;
        }

        _swept = now;
        foreach ((IotlbQuestion question, Asked asked) in _asked)
        {
            if (IsOverdue(asked, now))
            {
                Remove(question);
                _timedOut++;
            }
        }
    }

    private bool IsOverdue(Asked asked, long now) => now - asked.When >= (asked.Serial < _answered ? _timeout : _patience);

    private void Remove(IotlbQuestion question)
    {
        if (_asked.Remove(question))
        {
            _insidePages -= IsInsidePage(question) ? 1 : 0;
        }
    }

    private long Read(in long counter)
    {
        lock (_asking)
        {
            return counter;
        }
    }

    private static bool IsInsidePage(IotlbQuestion question) => !question.Address.IsAligned(IotlbQuestion.PageSize);

    private readonly record struct Asked(long When, long Serial);
}
