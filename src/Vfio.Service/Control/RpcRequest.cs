using System.Text.Json;

namespace Vfio.Service;

/// <summary>A checked JSON-RPC 2.0 request: section 4 "Request object", and a count of descriptors that came along.</summary>
/// <param name="Id">The caller's mark, or null for a notification.</param>
/// <param name="Method">What to do.</param>
/// <param name="Parameters">An object; empty when the caller gave none.</param>
/// <param name="Descriptors">How many descriptors came with the message.</param>
internal sealed record RpcRequest(JsonElement? Id, string Method, JsonElement Parameters, int Descriptors)
{
    private static readonly JsonElement Empty = JsonDocument.Parse("{}").RootElement.Clone();

    /// <summary>Checks a message.</summary>
    /// <param name="message">The message.</param>
    /// <param name="wrong">What is wrong with it.</param>
    /// <returns>The request, or null.</returns>
    public static RpcRequest? TryRead(JsonElement message, out string wrong)
    {
        wrong = string.Empty;
        if (message.ValueKind != JsonValueKind.Object)
        {
            wrong = "a message is one JSON object; batches are not taken";
        }
        else if (!message.TryGetProperty("jsonrpc", out JsonElement version) || version.ValueKind != JsonValueKind.String
            || !version.ValueEquals("2.0"))
        {
            wrong = "\"jsonrpc\" is not \"2.0\"";
        }
        else if (!message.TryGetProperty("method", out JsonElement method) || method.ValueKind != JsonValueKind.String)
        {
            wrong = "\"method\" is not a string";
        }
        else if (message.TryGetProperty("id", out JsonElement id)
            && id.ValueKind is not (JsonValueKind.String or JsonValueKind.Number or JsonValueKind.Null))
        {
            wrong = "\"id\" is neither a string, a number nor null";
        }
        else if (message.TryGetProperty("params", out JsonElement parameters) && parameters.ValueKind != JsonValueKind.Object)
        {
            wrong = "\"params\" is not an object; parameters go by name";
        }
        else
        {
            int descriptors = 0;
            if (message.TryGetProperty("descriptors", out JsonElement count)
                && (count.ValueKind != JsonValueKind.Number || !count.TryGetInt32(out descriptors) || descriptors < 0))
            {
                wrong = "\"descriptors\" is not a count";
                return null;
            }

            return new RpcRequest(
                IdOf(message),
                method.GetString()!,
                parameters.ValueKind == JsonValueKind.Undefined ? Empty : parameters,
                descriptors);
        }

        return null;
    }

    /// <summary>The mark to answer a message with, where it has a valid one.</summary>
    public static JsonElement? IdOf(JsonElement message) =>
        message.ValueKind == JsonValueKind.Object && message.TryGetProperty("id", out JsonElement id)
            && id.ValueKind is JsonValueKind.String or JsonValueKind.Number or JsonValueKind.Null ? id : null;
}
