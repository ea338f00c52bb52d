using System.Globalization;
using Vfio.VhostUser.Benchmarks;

// What tools/bench iotlb and tools/bench revoke run.
switch (args)
{
    case ["backend", string socket, .. string[] settings]:
        return Backend.Serve(socket, settings.Contains("--clamp-off"), settings.Contains("--prefetch-off"));
    case ["iotlb", string seconds, string rounds, string json, string mappings, .. string[] settings]:
        return new IotlbBenchmark(
            TimeSpan.FromSeconds(double.Parse(seconds, CultureInfo.InvariantCulture)),
            int.Parse(rounds, CultureInfo.InvariantCulture),
            [.. mappings.Split(',').Select(m => Enum.Parse<Mapping>(m.Replace("-", string.Empty, StringComparison.Ordinal), ignoreCase: true))],
            settings).Run(json.Length == 0 ? null : json);
    case ["revoke", string count]:
        return RevokeBenchmark.Run(long.Parse(count, CultureInfo.InvariantCulture));
    case ["epoch"]:
        EpochBenchmark.Run();
        return 0;
    case ["revoke-broken", string count]:
        return RevokeBenchmark.RunBroken(long.Parse(count, CultureInfo.InvariantCulture));
    default:
        Console.Error.WriteLine("run tools/bench iotlb or tools/bench revoke");
        return 2;
}
