using Vfio.Benchmarks;

// What tools/bench runs. Figures go to the standard output, a cell a line; nothing is judged here.
return args switch
{
    ["map", string address] => MapBenchmark.Run(Vfio.PciAddress.Parse(address)),
    ["pool"] => PoolBenchmark.Run(),
    _ => Usage(),
};

static int Usage()
{
    Console.Error.WriteLine("usage: Vfio.Benchmarks map ADDRESS | pool");
    return 2;
}
