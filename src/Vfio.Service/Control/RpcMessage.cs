using System.Buffers;
using System.Text.Json;

namespace Vfio.Service;

/// <summary>Writes the messages of the control socket, each one line with its end.</summary>
internal static class RpcMessage
{
    public static ReadOnlyMemory<byte> Result(JsonElement id, ReadOnlySpan<byte> result, int descriptors)
    {
        var buffer = new ArrayBufferWriter<byte>();
        using (Utf8JsonWriter writer = Begin(buffer))
        {
            writer.WritePropertyName("id");
            id.WriteTo(writer);
            writer.WritePropertyName("result");
            writer.WriteRawValue(result);
            End(writer, descriptors);
        }

        return Line(buffer);
    }

    public static ReadOnlyMemory<byte> Error(JsonElement? id, int code, string message, ErrorData? data)
    {
        var buffer = new ArrayBufferWriter<byte>();
        using (Utf8JsonWriter writer = Begin(buffer))
        {
            writer.WritePropertyName("id");
            if (id is { } own)
            {
                own.WriteTo(writer);
            }
            else
            {
                writer.WriteNullValue();
            }

            writer.WriteStartObject("error");
            writer.WriteNumber("code", code);
            writer.WriteString("message", message);
            if (data is not null)
            {
                writer.WritePropertyName("data");
                JsonSerializer.Serialize(writer, data, ServiceJson.Default.ErrorData);
            }

            writer.WriteEndObject();
            End(writer, 0);
        }

        return Line(buffer);
    }

    public static ReadOnlyMemory<byte> Progress(JsonElement id, ProgressReport report)
    {
        var buffer = new ArrayBufferWriter<byte>();
        using (Utf8JsonWriter writer = Begin(buffer))
        {
            writer.WriteString("method", "progress");
            writer.WriteStartObject("params");
            writer.WritePropertyName("id");
            id.WriteTo(writer);
            writer.WritePropertyName("report");
            JsonSerializer.Serialize(writer, report, ServiceJson.Default.ProgressReport);
            writer.WriteEndObject();
            End(writer, 0);
        }

        return Line(buffer);
    }

    public static ReadOnlyMemory<byte> Request(long id, string method, Action<Utf8JsonWriter> parameters, int descriptors)
    {
        var buffer = new ArrayBufferWriter<byte>();
        using (Utf8JsonWriter writer = Begin(buffer))
        {
            writer.WriteNumber("id", id);
            writer.WriteString("method", method);
            writer.WritePropertyName("params");
            parameters(writer);
            End(writer, descriptors);
        }

        return Line(buffer);
    }

    public static ReadOnlyMemory<byte> Cancel(long id)
    {
        var buffer = new ArrayBufferWriter<byte>();
        using (Utf8JsonWriter writer = Begin(buffer))
        {
            writer.WriteString("method", "cancel");
            writer.WriteStartObject("params");
            writer.WriteNumber("id", id);
            writer.WriteEndObject();
            End(writer, 0);
        }

        return Line(buffer);
    }

    private static Utf8JsonWriter Begin(ArrayBufferWriter<byte> buffer)
    {
        var writer = new Utf8JsonWriter(buffer);
        writer.WriteStartObject();
        writer.WriteString("jsonrpc", "2.0");
        return writer;
    }

    private static void End(Utf8JsonWriter writer, int descriptors)
    {
        if (descriptors > 0)
        {
            writer.WriteNumber("descriptors", descriptors);
        }

        writer.WriteEndObject();
    }

    private static ReadOnlyMemory<byte> Line(ArrayBufferWriter<byte> buffer)
    {
        buffer.GetSpan(1)[0] = (byte)'\n';
        buffer.Advance(1);
        return buffer.WrittenMemory;
    }
}
