using Vfio.Cli;

return Vfiopin.Run(args, CliEnvironment.OfThisProcess());
