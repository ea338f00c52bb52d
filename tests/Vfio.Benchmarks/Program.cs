using Vfio.Benchmarks;

// What tools/bench runs. Figures go to the standard output, a cell a line; nothing is judged here.
return args switch
{
    ["map", string address] => MapBenchmark.Run(Vfio.PciAddress.Parse(address)),
    ["pool"] => PoolBenchmark.Run(),
    ["parts"] => PartsBenchmark.Run(),
    ["parts", string address] => PartsBenchmark.Run(Vfio.PciAddress.Parse(address)),
    _ => Usage(),
};

static int Usage()
{
    Console.Error.WriteLine("usage: Vfio.Benchmarks map ADDRESS | pool | parts");
    return 2;
}
