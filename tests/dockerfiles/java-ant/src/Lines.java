import java.io.BufferedReader;
import java.io.InputStreamReader;

public final class Lines {
    public static void main(String[] arguments) throws Exception {
        try (var reader = new BufferedReader(new InputStreamReader(System.in))) {
            System.out.println(reader.lines().count() + " lines, heap of " + (Runtime.getRuntime().maxMemory() >> 20) + " MB");
        }
    }
}
