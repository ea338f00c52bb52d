using System.Globalization;

namespace Vfio.Virtio;

/// <summary>An Ethernet address.</summary>
/// <param name="Value">Its six bytes, the first one lowest.</param>
public readonly record struct MacAddress(ulong Value)
{
    /// <summary>Bytes of an address.</summary>
    public const int Bytes = 6;

    /// <summary>Reads an address.</summary>
    /// <param name="bytes">At least six bytes.</param>
    /// <returns>The address that they begin with.</returns>
    public static MacAddress Read(ReadOnlySpan<byte> bytes)
    {
        ulong value = 0;
        for (int i = 0; i < Bytes; i++)
        {
            value |= (ulong)bytes[i] << (8 * i);
        }

        return new MacAddress(value);
    }

    /// <summary>Writes the address.</summary>
    /// <param name="bytes">Where to, at least six bytes.</param>
    public void Write(Span<byte> bytes)
    {
        for (int i = 0; i < Bytes; i++)
        {
            bytes[i] = (byte)((Value >> (8 * i)) & 0xFF);
        }
    }

    /// <inheritdoc/>
    public override string ToString()
    {
        Span<byte> bytes = stackalloc byte[Bytes];
        Write(bytes);
        return string.Create(
            CultureInfo.InvariantCulture, $"{bytes[0]:x2}:{bytes[1]:x2}:{bytes[2]:x2}:{bytes[3]:x2}:{bytes[4]:x2}:{bytes[5]:x2}");
    }
}
