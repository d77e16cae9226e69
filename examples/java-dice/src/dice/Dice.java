package dice;

import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.random.RandomGenerator;

/** Throws dice over HTTP: /N throws one with N sides. */
public final class Dice {
    private Dice() {}

    static int thrown(int sides, RandomGenerator chance) {
        if (sides < 2) {
            throw new IllegalArgumentException("a die has two sides at least");
        }
        return chance.nextInt(sides) + 1;
    }

    public static void main(String[] arguments) throws Exception {
        var chance = RandomGenerator.getDefault();
        var server = HttpServer.create(new InetSocketAddress(8080), 0);
        server.createContext("/", exchange -> {
            int status = 200;
            String text;
            try {
                var path = exchange.getRequestURI().getPath().substring(1);
                text = thrown(path.isEmpty() ? 6 : Integer.parseInt(path), chance) + "\n";
            } catch (IllegalArgumentException error) {
                status = 400;
                text = error.getMessage() + "\n";
            }
            var bytes = text.getBytes(StandardCharsets.UTF_8);
            exchange.sendResponseHeaders(status, bytes.length);
            try (var body = exchange.getResponseBody()) {
                body.write(bytes);
            }
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> server.stop(1)));
        server.start();
    }
}
