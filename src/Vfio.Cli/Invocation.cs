using System.CommandLine;
using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using Vfio.Cli.Terminal;
using Vfio.Linux;
using Vfio.Service;

namespace Vfio.Cli;

/// <summary>One run of one verb: its options, where operations run, and how results and errors are shown.</summary>
internal sealed class Invocation : IDisposable
{
    private static readonly TimeSpan DaemonRetry = TimeSpan.FromMilliseconds(20);

    private readonly ParseResult _parsed;
    private readonly CommonOptions _options;
    private readonly CancellationTokenSource _cancellation;
    private readonly PosixSignalRegistration _interrupt;
    private readonly PosixSignalRegistration _terminate;

    private Invocation(ParseResult parsed, CliEnvironment environment, CommonOptions options)
    {
        _parsed = parsed;
        _options = options;
        Environment = environment;
        _cancellation = CancellationTokenSource.CreateLinkedTokenSource(environment.Cancellation);
        _interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, OnSignal);
        _terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, OnSignal);
    }

    /// <summary>What the program meets.</summary>
    public CliEnvironment Environment { get; }

    /// <summary>Set by the first Ctrl-C or SIGTERM; the second ends the process where it stands.</summary>
    public CancellationToken Cancellation => _cancellation.Token;

    /// <summary>Whether the answer is for a program.</summary>
    public bool Json => _parsed.GetValue(_options.Output) == OutputFormat.Json;

    /// <summary>The daemon's socket.</summary>
    public string SocketPath => _parsed.GetValue(_options.Socket)!;

    /// <summary>Runs a verb and turns what it throws into a message and an exit code.</summary>
    public static int Run(ParseResult parsed, CliEnvironment environment, CommonOptions options, Func<Invocation, int> verb)
    {
        using var invocation = new Invocation(parsed, environment, options);
        try
        {
            return verb(invocation);
        }
        catch (UsageException e)
        {
            environment.Error.WriteLine($"vfiopin: {e.Message}");
            return Vfiopin.Usage;
        }
        catch (OperationCanceledException)
        {
            environment.Error.WriteLine("vfiopin: interrupted");
            return Vfiopin.Failed;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            invocation.ShowError(ErrorData.Of(e), e.Message);
            return Vfiopin.Failed;
        }
    }

    /// <summary>An option's value.</summary>
    public T? Get<T>(Option<T> option) => _parsed.GetValue(option);

    /// <summary>An argument's value.</summary>
    public T Get<T>(Argument<T> argument) => _parsed.GetRequiredValue(argument);

    /// <summary>The daemon; it must be there, or come in a moment.</summary>
    public IControl Daemon()
    {
        var waited = Stopwatch.StartNew();
        while (waited.Elapsed < Environment.DaemonStart)
        {
            if (ControlClient.TryConnect(SocketPath, out Errno errno) is { } client)
            {
                return client;
            }

            if (errno is not (Errno.ENOENT or Errno.ECONNREFUSED) || Cancellation.WaitHandle.WaitOne(DaemonRetry))
            {
                break;
            }
        }

        Cancellation.ThrowIfCancellationRequested();
        return ControlClient.Connect(SocketPath);
    }

    /// <summary>The daemon where one runs that this user may ask, else an engine in this process.</summary>
    public IControl DaemonOrLocal() =>
        (IControl?)ControlClient.TryConnect(SocketPath, out _) ?? new LocalControl(Environment.Kernel, Environment.Sysfs);

    /// <summary>Runs an operation with a progress bar.</summary>
    public TResult Call<TParameters, TResult>(
        IControl control, Operation<TParameters, TResult> operation, TParameters parameters, params FileDescriptor[] descriptors)
        where TParameters : class
        where TResult : class
    {
        using var bar = new ProgressBar(Environment.Error.Write, Environment.ErrorIsTerminal && !Json);
        return control.Invoke(operation, parameters, new OperationContext
        {
            Cancellation = Cancellation,
            Progress = bar.Report,
            Descriptors = descriptors,
        });
    }

    /// <summary>Prints a result: as JSON, or as the text that <paramref name="text"/> makes of it; on standard error where
    /// standard output carries data.</summary>
    public void Show<T>(T value, Func<ServiceJson, JsonTypeInfo<T>> json, Action<T, TextView> text, bool toError = false)
    {
        TextWriter output = toError ? Environment.Error : Environment.Out;
        if (Json)
        {
            using var stream = new MemoryStream();
            using (var writer = new Utf8JsonWriter(stream, new JsonWriterOptions { Indented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping }))
            {
                JsonSerializer.Serialize(writer, value, json(ServiceJson.Default));
            }

            output.WriteLine(System.Text.Encoding.UTF8.GetString(stream.GetBuffer(), 0, (int)stream.Length));
        }
        else
        {
            text(value, new TextView(output, toError ? Environment.ErrorIsTerminal : Environment.OutIsTerminal));
        }
    }

    public void Dispose()
    {
        _interrupt.Dispose();
        _terminate.Dispose();
        _cancellation.Dispose();
    }

    private void ShowError(ErrorData? data, string message)
    {
        if (Json && data is not null)
        {
            Environment.Error.WriteLine(JsonSerializer.Serialize(data, ServiceJson.Default.ErrorData));
        }
        else
        {
            Environment.Error.WriteLine($"vfiopin: {message}");
        }
    }

    private void OnSignal(PosixSignalContext context)
    {
        if (!_cancellation.IsCancellationRequested)
        {
            context.Cancel = true;
            _cancellation.Cancel();
        }
    }
}
