using System.Runtime.InteropServices;
using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>The IOTLB of a session: takes the front-end's messages in after checking them, and sends it questions.</summary>
/// <remarks>Whose turn it is applies messages, the session's thread or a poller (<see cref="SessionTurn"/>); pollers ask through the
/// views.</remarks>
internal sealed class SessionIotlb(IVhostUserDevice device)
{
    // Questions that one message to the socket holds.
    private const int AtOnce = 64;

    private static readonly IovaRange Everything = new(new Iova(0), new Iova(ulong.MaxValue));

    public DeviceIotlb Table { get; } = new(device.IotlbCapacity);

    /// <summary>Where questions go; null while the front-end gave no channel.</summary>
    public BackendChannel? Channel { get; set; }

    /// <summary>A view for a ring that is to run.</summary>
    /// <param name="answers">How the poller of that ring takes answers itself.</param>
    public IotlbView View(IIotlbAnswers answers) => new(Table, Send, answers);

    /// <summary>The range of a message, checked.</summary>
    public static IovaRange RangeOf(in IotlbMessage message) => TryRangeOf(message, out IovaRange range)
        ? range
        : throw new VhostUserProtocolException(
            $"IotlbMsg of {message.Size} bytes at {message.Iova}: it is empty or passes the end of the address space");

    /// <summary>The range of a message, if it has one.</summary>
    public static bool TryRangeOf(in IotlbMessage message, out IovaRange range)
    {
        ulong size = message.Size;
        if (size == 0 && message.Type == IotlbMessageType.Invalidate && message.Iova.Value == 0)
        {
            // The size of everything does not fit in 64 bits: QEMU computes a mask plus one.
            range = Everything;
            return true;
        }

        bool valid = size != 0 && unchecked(message.Iova.Value + (size - 1)) >= message.Iova.Value;
        range = valid ? IovaRange.Of(message.Iova, size) : default;
        return valid;
    }

    /// <summary>Whether an update would be refused.</summary>
    public static bool IsRefused(in IotlbMessage message, GuestMemory memory) =>
        !TryRangeOf(message, out IovaRange range) || ((DmaAccess)message.Permissions & ~DmaAccess.ReadWrite) != 0
        || (message.Permissions != 0 && FirstOutside(range, message.UserAddress, memory) is not null);

    /// <summary>Takes an update in, asked for or not. It may lie in several regions, which need not be neighbours here.</summary>
    public void Update(in IotlbMessage message, GuestMemory memory)
    {
        IovaRange range = RangeOf(message);
        var access = (DmaAccess)message.Permissions;
        if ((access & ~DmaAccess.ReadWrite) != 0)
        {
            throw new VhostUserProtocolException($"IotlbMsg update of {range} has permissions {message.Permissions}; 0 to 3 are right");
        }

        if (access == DmaAccess.None)
        {
            Table.Update(new IotlbRange(range, default, access));
            return;
        }

        // All of it, or nothing: first every piece is found.
        if (FirstOutside(range, message.UserAddress, memory) is { } outside)
        {
            throw new VhostUserProtocolException(
                $"IotlbMsg update of {range}: the memory at {outside} is in no region of the memory table");
        }

        Iova next = range.First;
        FrontendAddress address = message.UserAddress;
        while (true)
        {
            memory.TryFindPart(address, range.Last - next, out HostAddress host, out ulong span);
            Table.Update(new IotlbRange(new IovaRange(next, next + span), host, access));
            if (next + span == range.Last)
            {
                return;
            }

            next += span + 1;
            address += span + 1;
        }
    }

    /// <summary>Asks the front-end for ranges, as far as they are missing and not asked for already.</summary>
    public void Ask(ReadOnlySpan<IovaRange> ranges, DmaAccess access)
    {
        IotlbSnapshot snapshot = Table.Snapshot;
        var questions = new List<IotlbQuestion>();
        Span<IotlbPiece> pieces = stackalloc IotlbPiece[8];
        foreach (IovaRange range in ranges)
        {
            IovaRange rest = range;
            while (true)
            {
                int found = snapshot.Lookup(rest, access, pieces);
                foreach (IotlbPiece piece in pieces[..found])
                {
                    Ask(piece, access, questions);
                }

                Iova last = pieces[found - 1].Range.Last;
                if (last == range.Last)
                {
                    break;
                }

                rest = new IovaRange(last + 1, range.Last);
            }
        }

        var picked = new IotlbQuestion[questions.Count + AtOnce];
        int count = Table.Questions.Pick(CollectionsMarshal.AsSpan(questions), picked);
        int sent = Send(picked.AsSpan(0, count));
        Table.Questions.Drop(picked.AsSpan(sent, count - sent));
    }

    /// <summary>Forgets what nobody answered in time, which nobody may need any more, and sends refusals that there was no room for
    /// before: the poller that met one does not come back to it.</summary>
    public void Tidy()
    {
        Table.Questions.Expire();
        if (Channel is not null && Table.Questions.HasUnsent)
        {
            Ask([], DmaAccess.None);
        }
    }

    private static void Ask(IotlbPiece piece, DmaAccess access, List<IotlbQuestion> questions)
    {
        if (piece.Kind == TranslationStatus.Translated)
        {
            return;
        }

        ulong last = piece.Range.Last.Value / IotlbQuestion.PageSize;
        for (ulong page = piece.Range.First.Value / IotlbQuestion.PageSize; page <= last; page++)
        {
            var address = new Iova(Math.Max(page * IotlbQuestion.PageSize, piece.Range.First.Value));
            questions.Add(new IotlbQuestion(address, access, piece.Kind == TranslationStatus.Denied));
        }
    }

    // The first address that is in no region; regions end before the address space does.
    private static FrontendAddress? FirstOutside(IovaRange range, FrontendAddress address, GuestMemory memory)
    {
        ulong left = range.Last - range.First;
        while (true)
        {
            if (unchecked(address.Value + left) < address.Value || !memory.TryFindPart(address, left, out _, out ulong span))
            {
                return address;
            }

            if (span == left)
            {
                return null;
            }

            address += span + 1;
            left -= span + 1;
        }
    }

    // On a poller's thread, or the session's.
    private int Send(ReadOnlySpan<IotlbQuestion> questions)
    {
        BackendChannel? channel = Channel;
        if (channel is null)
        {
            return 0;
        }

        // Mostly one. They have padding, which is cleared here: the peer gets it too.
        Span<IotlbMessage> messages = stackalloc IotlbMessage[Math.Min(AtOnce, questions.Length)];
        int sent = 0;
        while (sent < questions.Length)
        {
            int count = Math.Min(AtOnce, questions.Length - sent);
            for (int i = 0; i < count; i++)
            {
                IotlbQuestion question = questions[sent + i];
                messages[i] = new IotlbMessage
                {
                    Iova = question.Address,
                    Size = IotlbQuestion.PageSize - (question.Address.Value % IotlbQuestion.PageSize),
                    Permissions = (byte)question.Access,
                    Type = question.IsRefusal ? IotlbMessageType.AccessFail : IotlbMessageType.Miss,
                };
            }

            if (!channel.TrySendAll<IotlbMessage>(BackendRequest.IotlbMsg, messages[..count]))
            {
                return sent;
            }

            sent += count;
        }

        return sent;
    }
}
