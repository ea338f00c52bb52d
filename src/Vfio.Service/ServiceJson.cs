using System.Text.Json.Serialization;

namespace Vfio.Service;

/// <summary>How everything that the service says is written as JSON; made at build time, without reflection.</summary>
[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase,
    UnmappedMemberHandling = JsonUnmappedMemberHandling.Disallow,
    RespectNullableAnnotations = true,
    RespectRequiredConstructorParameters = true,
    UseStringEnumConverter = true,
    Converters = [typeof(PciAddressJsonConverter), typeof(IovaJsonConverter)])]
[JsonSerializable(typeof(ErrorData))]
[JsonSerializable(typeof(ProgressReport))]
[JsonSerializable(typeof(DaemonInfo))]
[JsonSerializable(typeof(NoParameters))]
[JsonSerializable(typeof(DeviceInfo[]))]
[JsonSerializable(typeof(DeviceDetail))]
[JsonSerializable(typeof(DoctorReport))]
[JsonSerializable(typeof(PoolRequest))]
[JsonSerializable(typeof(PoolPlanInfo))]
[JsonSerializable(typeof(PoolInfo[]))]
[JsonSerializable(typeof(PoolName))]
[JsonSerializable(typeof(PoolChange))]
[JsonSerializable(typeof(PoolGrowth))]
[JsonSerializable(typeof(AttachLayout))]
[JsonSerializable(typeof(DirtyRequest))]
[JsonSerializable(typeof(ExportRequest))]
[JsonSerializable(typeof(DirtyInfo))]
[JsonSerializable(typeof(ExportInfo))]
[JsonSerializable(typeof(BlockQuery))]
[JsonSerializable(typeof(BlockInfo))]
[JsonSerializable(typeof(BlockTransferRequest))]
[JsonSerializable(typeof(BlockTransferResult))]
[JsonSerializable(typeof(PortRequest))]
[JsonSerializable(typeof(PortName))]
[JsonSerializable(typeof(PortInfo[]))]
[JsonSerializable(typeof(CardQuery))]
[JsonSerializable(typeof(CardInfo))]
[JsonSerializable(typeof(CardRequest))]
[JsonSerializable(typeof(CardResult))]
public sealed partial class ServiceJson : JsonSerializerContext;
