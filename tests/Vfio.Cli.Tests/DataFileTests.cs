namespace Vfio.Cli.Tests;

[TestClass]
public sealed class DataFileTests
{
    // By then whoever wrote it counts on it: a pool's record starts again at an export.
    [TestMethod]
    public void A_file_that_cannot_get_its_name_stays_and_is_told_of()
    {
        string directory = Directory.CreateTempSubdirectory("vfiopin-data-").FullName;
        try
        {
            string target = Path.Combine(directory, "export");
            IOException failure;
            using (DataFile file = DataFile.Output(target, new CliEnvironment { Out = TextWriter.Null, Error = TextWriter.Null }))
            {
                using (var stream = new FileStream($"/proc/self/fd/{file.Descriptor.Number}", FileMode.Open, FileAccess.Write))
                {
                    stream.Write("whole"u8);
                }

                Directory.CreateDirectory(target);
                failure = Assert.Throws<IOException>(file.Commit);
            }

            string left = Directory.GetFiles(directory).Single();
            Assert.Contains(left, failure.Message);
            Assert.AreEqual("whole", File.ReadAllText(left));
        }
        finally
        {
            Directory.Delete(directory, recursive: true);
        }
    }
}
