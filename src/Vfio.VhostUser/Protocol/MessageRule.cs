using System.Runtime.CompilerServices;

namespace Vfio.VhostUser;

/// <summary>What a request must look like before anything of it is believed.</summary>
/// <param name="MinPayload">Fewest bytes.</param>
/// <param name="MaxPayload">Most bytes.</param>
/// <param name="MinDescriptors">Fewest descriptors.</param>
/// <param name="MaxDescriptors">Most descriptors.</param>
/// <param name="Needs">The protocol feature without which it may not be sent.</param>
/// <param name="HasReply">Whether it is always answered with a body of its own.</param>
internal readonly record struct MessageRule(
    int MinPayload, int MaxPayload, int MinDescriptors, int MaxDescriptors, ProtocolFeatures Needs, bool HasReply)
{
    /// <summary>Regions in one SET_MEM_TABLE (vhost-user specification, "Memory regions description").</summary>
    public const int MaxRegionsInTable = 8;

    /// <summary>The longest access to configuration space; QEMU's own limit.</summary>
    public const int MaxConfig = 256;

    /// <summary>The rule for a request.</summary>
    /// <param name="request">The request.</param>
    /// <param name="rule">Its rule.</param>
    /// <returns>False when the request is unknown or of a kind that this back-end does not have.</returns>
    public static bool TryGet(FrontendRequest request, out MessageRule rule)
    {
        const ProtocolFeatures None = ProtocolFeatures.None;
        const ProtocolFeatures Slots = ProtocolFeatures.ConfigureMemSlots;
        const ProtocolFeatures Inflight = ProtocolFeatures.InflightShmfd;
        MessageRule? found = request switch
        {
            FrontendRequest.GetFeatures or FrontendRequest.GetProtocolFeatures => Empty(None, hasReply: true),
            FrontendRequest.SetFeatures or FrontendRequest.SetProtocolFeatures => Of<ulong>(None),
            FrontendRequest.SetOwner or FrontendRequest.ResetOwner => Empty(None),
            FrontendRequest.SetMemTable => new MessageRule(
                Unsafe.SizeOf<MemoryTableHeader>(),
                Unsafe.SizeOf<MemoryTableHeader>() + (MaxRegionsInTable * Unsafe.SizeOf<RegionDescription>()),
                0, MaxRegionsInTable, None, false),
            FrontendRequest.SetLogBase => Of<LogDescription>(ProtocolFeatures.LogShmfd, descriptors: 1, hasReply: true),
            FrontendRequest.SetLogFd => new MessageRule(0, sizeof(ulong), 1, 1, None, false),
            FrontendRequest.SetVringNum or FrontendRequest.SetVringBase or FrontendRequest.SetVringEnable => Of<VringState>(None),
            FrontendRequest.SetVringAddr => Of<VringAddresses>(None),
            FrontendRequest.GetVringBase => Of<VringState>(None, hasReply: true),
            FrontendRequest.SetVringKick or FrontendRequest.SetVringCall or FrontendRequest.SetVringErr =>
                new MessageRule(sizeof(ulong), sizeof(ulong), 0, 1, None, false),
            FrontendRequest.GetQueueNum => Empty(ProtocolFeatures.Mq, hasReply: true),
            FrontendRequest.NetSetMtu => Of<ulong>(ProtocolFeatures.NetMtu),
            FrontendRequest.SetBackendReqFd => Empty(ProtocolFeatures.BackendReq) with { MinDescriptors = 1, MaxDescriptors = 1 },
            FrontendRequest.GetConfig => Config(hasReply: true),
            FrontendRequest.SetConfig => Config(hasReply: false),
            // 20 bytes, or 24 with the padding that C adds.
            FrontendRequest.GetInflightFd => new MessageRule(20, 24, 0, 0, Inflight, true),
            FrontendRequest.SetInflightFd => new MessageRule(20, 24, 1, 1, Inflight, false),
            FrontendRequest.ResetDevice => Empty(ProtocolFeatures.ResetDevice),
            // Needs VIRTIO_F_ACCESS_PLATFORM, which is no protocol feature: the session looks.
            FrontendRequest.IotlbMsg => Of<IotlbMessage>(None),
            FrontendRequest.VringKick => Of<VringState>(ProtocolFeatures.InbandNotifications),
            FrontendRequest.GetMaxMemSlots => Empty(Slots, hasReply: true),
            FrontendRequest.AddMemReg => Of<SingleRegion>(Slots, descriptors: 1),
            // "For compatibility with existing incorrect implementations, the back-end MAY accept messages with one file descriptor."
            FrontendRequest.RemMemReg => Of<SingleRegion>(Slots) with { MaxDescriptors = 1 },
            FrontendRequest.SetStatus => Of<ulong>(ProtocolFeatures.Status),
            FrontendRequest.GetStatus => Empty(ProtocolFeatures.Status, hasReply: true),
            _ => null,
        };
        rule = found ?? default;
        return found is not null;
    }

    private static MessageRule Empty(ProtocolFeatures needs, bool hasReply = false) => new(0, 0, 0, 0, needs, hasReply);

    private static MessageRule Of<T>(ProtocolFeatures needs, int descriptors = 0, bool hasReply = false)
        where T : unmanaged =>
        new(Unsafe.SizeOf<T>(), Unsafe.SizeOf<T>(), descriptors, descriptors, needs, hasReply);

    private static MessageRule Config(bool hasReply) =>
        new(Unsafe.SizeOf<ConfigHeader>(), Unsafe.SizeOf<ConfigHeader>() + MaxConfig, 0, 0, ProtocolFeatures.Config, hasReply);
}
