using System.Runtime.InteropServices;
using Vfio.Linux;

namespace Vfio.VhostUser.Tests.Session;

/// <summary>Random sessions: mostly right messages with wrong numbers in them, some wrong all over.</summary>
internal static class MessageFuzzer
{
    private static readonly ulong[] Interesting =
    [
        0, 1, 2, 8, 15, 16, 255, 256, 257, 4095, 4096, 0x8000, 0x8001, 0xFFFF, 0x10000, 0x100, Peer.MemoryLength, Peer.MemoryLength - 1,
        uint.MaxValue, 1ul << 32, ulong.MaxValue, ulong.MaxValue - 4095, 1ul << 63,
    ];

    public static void RunOnce(Random random)
    {
        using var peer = new Peer();
        using var signal = new EventFd();
        if (random.Next(8) != 0)
        {
            // VERSION_1, with RING_PACKED and ACCESS_PLATFORM or without; everything that there is a message for.
            peer.Negotiate(
                (Virtio.VirtioFeatures)((1ul << 32) | (random.Next(2) == 0 ? 0 : 1ul << 34) | (random.Next(4) == 0 ? 1ul << 33 : 0)),
                (ProtocolFeatures)peer.Ask<ulong>(FrontendRequest.GetProtocolFeatures, []));
            peer.AsksForReplies = false;
            if (random.Next(4) != 0)
            {
                peer.Send(FrontendRequest.AddMemReg, Peer.Region(Peer.Guest, Peer.User, Peer.MemoryLength), peer.Memory);
            }
        }

        Span<byte> payload = stackalloc byte[300];
        for (int message = random.Next(1, 30); message > 0; message--)
        {
            var request = (FrontendRequest)(uint)random.Next(0, 42);
            int size = MessageRule.TryGet(request, out MessageRule rule) && random.Next(10) != 0
                ? random.Next(rule.MinPayload, rule.MaxPayload + 1) : random.Next(payload.Length);
            for (int i = 0; i + sizeof(ulong) <= payload.Length; i += sizeof(ulong))
            {
                MemoryMarshal.Write(payload[i..], Number(random));
            }

            if (random.Next(3) != 0)
            {
                // A ring that there is.
                MemoryMarshal.Write(payload, (uint)random.Next(4));
            }

            int descriptors = random.Next(10) != 0 ? random.Next(rule.MinDescriptors, rule.MaxDescriptors + 1) : random.Next(12);
            var files = new FileDescriptor[descriptors];
            for (int i = 0; i < files.Length; i++)
            {
                files[i] = random.Next(2) == 0 ? peer.Memory : signal.Descriptor;
            }

            var header = new MessageHeader
            {
                Request = (uint)request,
                Flags = random.Next(20) == 0 ? (uint)random.Next() : MessageHeader.Version,
                Size = random.Next(20) == 0 ? unchecked((uint)Number(random)) : (uint)size,
            };
            byte[] bytes = [.. MemoryMarshal.AsBytes(new ReadOnlySpan<MessageHeader>(in header)), .. payload[..size]];
            peer.SendRaw(bytes.AsSpan(0, random.Next(30) == 0 ? random.Next(1, bytes.Length) : bytes.Length), files);
        }
    }

    private static ulong Number(Random random) => random.Next(4) switch
    {
        0 => (ulong)random.NextInt64(),
        1 => Peer.User.Value + (ulong)random.Next((int)Peer.MemoryLength),
        2 => (uint)random.Next(600),
        _ => Interesting[random.Next(Interesting.Length)],
    };
}
