using System.Globalization;
using System.Text.Json;
using System.Text.Json.Serialization;

namespace Vfio.Service;

/// <summary>Writes a PCI address as <c>"0000:00:04.0"</c>.</summary>
public sealed class PciAddressJsonConverter : JsonConverter<PciAddress>
{
    /// <inheritdoc/>
    public override PciAddress Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options) =>
        reader.TokenType == JsonTokenType.String && PciAddress.TryParse(reader.GetString(), null, out PciAddress address)
            ? address
            : throw new JsonException("not a PCI address; one looks like \"0000:00:04.0\"");

    /// <inheritdoc/>
    public override void Write(Utf8JsonWriter writer, PciAddress value, JsonSerializerOptions options)
    {
        ArgumentNullException.ThrowIfNull(writer);
        writer.WriteStringValue(value.ToString());
    }
}

/// <summary>Writes an IOVA as <c>"0x100000000"</c>: JSON's numbers lose bits above 2^53 in many readers.</summary>
public sealed class IovaJsonConverter : JsonConverter<Iova>
{
    /// <inheritdoc/>
    public override Iova Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options) =>
        reader.TokenType == JsonTokenType.String && reader.GetString() is string text
        && text.StartsWith("0x", StringComparison.Ordinal)
        && ulong.TryParse(text.AsSpan(2), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out ulong value)
            ? new Iova(value)
            : throw new JsonException("not an IOVA; one looks like \"0x100000000\"");

    /// <inheritdoc/>
    public override void Write(Utf8JsonWriter writer, Iova value, JsonSerializerOptions options)
    {
        ArgumentNullException.ThrowIfNull(writer);
        writer.WriteStringValue(value.ToString());
    }
}
