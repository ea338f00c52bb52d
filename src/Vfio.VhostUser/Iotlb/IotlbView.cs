using System.Diagnostics;
using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>One queue's view of its device's IOTLB: the snapshot of the present batch, the last hits, and what was missing.</summary>
/// <remarks>For the one thread that polls the queue, between <see cref="Begin"/> and the end of the same batch of its
/// <see cref="GracePeriodReader"/>. Nothing that is done for each buffer allocates, waits or takes a lock; <see cref="Ask"/> does the last, and
/// <see cref="TakeAnswers"/> may do all three, for what the front-end changed.</remarks>
public sealed class IotlbView : IDisposable
{
    // What one burst can ask: as much as fits is asked now, the rest when the burst comes back.
    private const int MaxQuestions = 512;
    // On top of that: a refusal may stop the queue, which then does not come back for it.
    private const int RoomForRefusals = 16;
    // Of one descriptor that is missing altogether: a gigabyte of it would be 262144 questions.
    private const int MaxQuestionsOfRange = 64;
    // Looked at of one descriptor: one over the whole table would keep its poller for long. The rest is asked when it comes back.
    private const int MaxPiecesOfRange = 4 * MaxQuestionsOfRange;

    private readonly DeviceIotlb _iotlb;
    private readonly Sender _send;
    private readonly IIotlbAnswers? _answers;
    private readonly IotlbQuestion[] _questions = new IotlbQuestion[MaxQuestions + RoomForRefusals];
    private readonly IotlbQuestion[] _sending = new IotlbQuestion[MaxQuestions + RoomForRefusals];
    private IotlbSnapshot _snapshot;
    private int _questionCount;
    private IotlbSnapshot? _missedIn;
    private long _missedAt;
    private long _hits;
    private long _misses;
    private long _accessFailures;

    /// <summary>A view for one queue.</summary>
    /// <param name="iotlb">The device's IOTLB.</param>
    /// <param name="send">Sends questions. Called without any lock; must not wait.</param>
    /// <param name="answers">How the queue's thread takes the answers; null where only another thread does.</param>
    public IotlbView(DeviceIotlb iotlb, Sender send, IIotlbAnswers? answers = null)
    {
        ArgumentNullException.ThrowIfNull(iotlb);
        ArgumentNullException.ThrowIfNull(send);
        _iotlb = iotlb;
        _send = send;
        _answers = answers;
        iotlb.Add(this);
        Take(iotlb.Snapshot);
    }

    /// <summary>Sends questions to the front-end.</summary>
    /// <param name="questions">All of a burst.</param>
    /// <returns>How many were sent, from the front.</returns>
    public delegate int Sender(ReadOnlySpan<IotlbQuestion> questions);

    /// <summary>Whether trying again cannot help yet: the last burst was cut short, nothing was changed since, and the front-end has not
    /// had its time. The poller leaves the queue alone and does other work.</summary>
    public bool IsWaiting =>
        _missedIn is not null && _missedIn == _iotlb.Snapshot
        && Stopwatch.GetElapsedTime(_missedAt) < _iotlb.Questions.Timeout;

    /// <summary>Whether the last batch was cut short by what was not known, whether or not the answer has come meanwhile.</summary>
    public bool HasMissed { get; private set; }

    /// <summary>Whether <see cref="TakeAnswers"/> is due before the next batch.</summary>
    public bool AreAnswersAwaited => _answers is { AreAwaited: true };

    /// <summary>Whether something was missing or refused in this batch: <see cref="Ask"/> is due.</summary>
    public bool HasQuestions => _questionCount != 0;

    /// <summary>What answers without a search, for who asks in a loop.</summary>
    internal IotlbLastHits LastHits { get; } = new();

    /// <summary><see cref="IotlbSnapshot.Generation"/> of this batch's translations.</summary>
    internal long Generation => _snapshot.Generation;

    /// <summary>Takes the front-end's answers, between two batches: the thread's <see cref="GracePeriodReader"/> is parked.</summary>
    /// <param name="round">Another number in each of the thread's rounds over all its queues, 0 or more.</param>
    /// <returns>Whether there were any.</returns>
    public bool TakeAnswers(long round) => _answers is not null && _answers.Take(round);

    /// <summary>Begins a batch unless that is of no use yet.</summary>
    /// <returns>False when it <see cref="IsWaiting"/>.</returns>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public bool TryBegin()
    {
        if (_missedIn is not null && IsWaiting)
        {
            return false;
        }

        Begin();
        return true;
    }

    /// <summary>Begins a batch: from here on the present translations count.</summary>
    public void Begin()
    {
        _questionCount = 0;
        _missedIn = null;
        HasMissed = false;
        IotlbSnapshot snapshot = _iotlb.Snapshot;
        if (snapshot != _snapshot)
        {
            Take(snapshot);
        }
    }

    /// <summary>Counts hits: <see cref="LastHits"/> do not, being asked for each buffer.</summary>
    /// <param name="times">How often they answered.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void CountAtHand(int times) => _hits += times;

    /// <summary>Translates as much of a range as lies together in this process, and notes what is missing or refused of all of
    /// it.</summary>
    /// <param name="address">The first byte; <c>address + length - 1</c> does not wrap.</param>
    /// <param name="length">Bytes, at least 1.</param>
    /// <param name="access">What is to be done there.</param>
    /// <param name="host">Where the first byte is, if the answer is <see cref="TranslationStatus.Translated"/>.</param>
    /// <param name="usable">Bytes from there on that may be used, at most <paramref name="length"/>.</param>
    /// <returns>What is known of the first byte.</returns>
    [SkipLocalsInit]
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public TranslationStatus Translate(Iova address, uint length, DmaAccess access, out HostAddress host, out uint usable)
    {
        if (LastHits.TryTranslate(address, length, access, out host))
        {
            CountAtHand(1);
            usable = length;
            return TranslationStatus.Translated;
        }

        // By way of locals of its own, not cleared beforehand, so that the caller's stay in registers.
        TranslationStatus status = Search(address, length, access, out HostAddress found, out uint foundUsable);
        (host, usable) = (found, foundUsable);
        return status;
    }

    /// <summary>Ends a batch: asks the front-end for everything that was missing in it, once, all together.</summary>
    /// <param name="cutShort">Whether the batch ended at what was missing, so that there is nothing to do before the answer; not so where
    /// only what comes later was looked at.</param>
    public void Ask(bool cutShort = true)
    {
        if (_questionCount == 0)
        {
            return;
        }

        HasMissed = cutShort;
        int count = _iotlb.Questions.Pick(_questions.AsSpan(0, _questionCount), _sending, out int own);
        int sent = count == 0 ? 0 : _send(_sending.AsSpan(0, count));
        if (sent != 0)
        {
            _answers?.Await();
        }

        if (sent < count)
        {
            _iotlb.Questions.Drop(_sending.AsSpan(sent, count - sent));
        }

        // Another queue's refusals, which are sent along, are nothing that this one waits for.
        if (cutShort && sent >= own)
        {
            // The snapshot that the questions come from: if it was replaced meanwhile, the next try is due at once.
            _missedIn = _snapshot;
            _missedAt = Stopwatch.GetTimestamp();
        }

        _questionCount = 0;
    }

    /// <inheritdoc/>
    public void Dispose() => _iotlb.Remove(this);

    internal IotlbCounters AddTo(IotlbCounters counters) => counters with
    {
        // ORDER: none wanted; another thread reads numbers that this one writes.
        Hits = counters.Hits + Volatile.Read(ref _hits),
        Misses = counters.Misses + Volatile.Read(ref _misses),
        AccessFailures = counters.AccessFailures + Volatile.Read(ref _accessFailures),
    };

    [MemberNotNull(nameof(_snapshot))]
    private void Take(IotlbSnapshot snapshot)
    {
        _snapshot = snapshot;
        LastHits.Begin(snapshot.Generation);
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private TranslationStatus Search(Iova address, uint length, DmaAccess access, out HostAddress host, out uint usable)
    {
        if (_snapshot.TryFind(address, out IotlbRange found) && (found.Access & access) == access)
        {
            ulong span = found.Range.Last - found.Range.First;
            ulong offset = address - found.Range.First;
            LastHits.Add(found, address);
            host = new HostAddress(found.Host.Value + Speculation.Clamp(offset, span));
            usable = (uint)Math.Min(length - 1, span - offset) + 1;
            _hits++;
            return TranslationStatus.Translated;
        }

        host = default;
        usable = 0;
        return Note(IovaRange.Of(address, length), access);
    }

    private TranslationStatus Note(IovaRange range, DmaAccess access)
    {
        Span<IotlbPiece> pieces = stackalloc IotlbPiece[8];
        TranslationStatus? answer = null;
        int room = MaxQuestionsOfRange;
        int looked = 0;
        bool missing = false;
        bool refused = false;
        while (true)
        {
            int count = _snapshot.Lookup(range, access, pieces);
            answer ??= pieces[0].Kind;
            foreach (IotlbPiece piece in pieces[..count])
            {
                missing |= piece.Kind == TranslationStatus.Miss;
                refused |= piece.Kind == TranslationStatus.Denied;
                if (piece.Kind != TranslationStatus.Translated)
                {
                    Note(piece, access, ref room);
                }
            }

            looked += count;
            if (pieces[count - 1].Range.Last == range.Last || room == 0 || looked >= MaxPiecesOfRange)
            {
                break;
            }

            range = new IovaRange(pieces[count - 1].Range.Last + 1, range.Last);
        }

        _misses += missing ? 1 : 0;
        _accessFailures += refused ? 1 : 0;
        return answer.Value;
    }

    private void Note(IotlbPiece piece, DmaAccess access, ref int room)
    {
        bool refusal = piece.Kind == TranslationStatus.Denied;
        ulong page = piece.Range.First.Value & ~(ulong)(IotlbQuestion.PageSize - 1);
        ulong last = piece.Range.Last.Value & ~(ulong)(IotlbQuestion.PageSize - 1);
        // The page's start speaks for all buffers in the page at once, unless it is only what follows that is missing, or refused.
        bool isKnown = _snapshot.TryFind(new Iova(page), out IotlbRange start);
        bool isAlike = refusal ? isKnown && (start.Access & access) != access : !isKnown;
        ulong address = isAlike ? page : piece.Range.First.Value;
        int most = refusal ? _questions.Length : MaxQuestions;
        while (room > 0 && _questionCount < most)
        {
            var question = new IotlbQuestion(new Iova(address), access, refusal);
            if (_questionCount == 0 || _questions[_questionCount - 1] != question)
            {
                _questions[_questionCount++] = question;
                room--;
            }

            // A refusal is reported by its first page: the peer learns where it went wrong, not how far.
            if (page == last || refusal)
            {
                return;
            }

            page += IotlbQuestion.PageSize;
            address = page;
        }
    }
}
