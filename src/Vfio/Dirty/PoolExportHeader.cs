using System.Buffers.Binary;
using System.Numerics;
using System.Runtime.InteropServices;

namespace Vfio;

/// <summary>The head of an export: which one it is, and which one it follows.</summary>
/// <param name="Id">This export.</param>
/// <param name="Base">The export that it follows; null for the first of a chain, which holds everything.</param>
/// <param name="Chain">The first export of the chain.</param>
/// <param name="Sequence">Its place in the chain, from 0.</param>
/// <param name="PoolLength">Bytes of the pool.</param>
/// <param name="Precision">How far the answer could be trusted that chose its pages.</param>
/// <param name="Sources">Who gave that answer.</param>
/// <param name="Extents">Runs of pages that follow.</param>
/// <param name="DataBytes">Bytes of all extents' pages.</param>
/// <remarks>On disk: 128 bytes, little-endian, the last four a CRC-32C of those before. Then for each extent 24 bytes (offset, length,
/// CRC-32C of its pages, CRC-32C of these 20 bytes) and its pages.</remarks>
public sealed record PoolExportHeader(
    Guid Id, Guid? Base, Guid Chain, ulong Sequence, ulong PoolLength, DirtyPrecision Precision, DirtySources Sources, ulong Extents, ulong DataBytes)
{
    internal const int Bytes = 128;
    internal const int ExtentBytes = 24;
    private const uint Version = 1;

    // Text that a transfer in text mode breaks, so that a damaged file is known at once.
    private static ReadOnlySpan<byte> Magic => "vfpin\r\n\u001a"u8;

    /// <summary>Reads the head of an export.</summary>
    /// <param name="stream">The export, at its start.</param>
    /// <returns>The head.</returns>
    /// <exception cref="InvalidDataException">It is no export, or damaged, or of a later version.</exception>
    public static PoolExportHeader Read(Stream stream)
    {
        ArgumentNullException.ThrowIfNull(stream);
        Span<byte> bytes = stackalloc byte[Bytes];
        if (stream.ReadAtLeast(bytes, Bytes, throwOnEndOfStream: false) < Bytes || !bytes[..8].SequenceEqual(Magic))
        {
            throw new InvalidDataException("this is no export of a pool");
        }

        if (BinaryPrimitives.ReadUInt32LittleEndian(bytes[124..]) != Checksum(bytes[..124]))
        {
            throw new InvalidDataException("the export's head is damaged");
        }

        uint version = BinaryPrimitives.ReadUInt32LittleEndian(bytes[8..]);
        if (version != Version || BinaryPrimitives.ReadUInt32LittleEndian(bytes[80..]) != DirtyBitmap.PageSize)
        {
            throw new InvalidDataException($"the export is of version {version}, and this program reads version {Version}");
        }

        var before = new Guid(bytes.Slice(32, 16));
        return new PoolExportHeader(
            new Guid(bytes.Slice(16, 16)), before == Guid.Empty ? null : before, new Guid(bytes.Slice(48, 16)),
            BinaryPrimitives.ReadUInt64LittleEndian(bytes[64..]), BinaryPrimitives.ReadUInt64LittleEndian(bytes[72..]),
            (DirtyPrecision)bytes[84], (DirtySources)bytes[85],
            BinaryPrimitives.ReadUInt64LittleEndian(bytes[88..]), BinaryPrimitives.ReadUInt64LittleEndian(bytes[96..]));
    }

    /// <summary>CRC-32C (Castagnoli), as iSCSI and ext4 use it.</summary>
    internal static uint Checksum(ReadOnlySpan<byte> bytes, uint crc = 0)
    {
        crc = ~crc;
        ReadOnlySpan<ulong> words = MemoryMarshal.Cast<byte, ulong>(bytes);
        foreach (ulong word in words)
        {
            crc = BitOperations.Crc32C(crc, word);
        }

        foreach (byte b in bytes[(words.Length * 8)..])
        {
            crc = BitOperations.Crc32C(crc, b);
        }

        return ~crc;
    }

    internal void Write(Stream stream)
    {
        Span<byte> bytes = stackalloc byte[Bytes];
        bytes.Clear();
        Magic.CopyTo(bytes);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[8..], Version);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[12..], Bytes);
        Id.TryWriteBytes(bytes[16..]);
        (Base ?? Guid.Empty).TryWriteBytes(bytes[32..]);
        Chain.TryWriteBytes(bytes[48..]);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes[64..], Sequence);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes[72..], PoolLength);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[80..], (uint)DirtyBitmap.PageSize);
        bytes[84] = (byte)Precision;
        bytes[85] = (byte)Sources;
        BinaryPrimitives.WriteUInt64LittleEndian(bytes[88..], Extents);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes[96..], DataBytes);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[124..], Checksum(bytes[..124]));
        stream.Write(bytes);
    }
}
