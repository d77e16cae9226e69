/** Greets people. */
public final class Greet {
    private Greet() {}

    public static String hello(String name) {
        return "hello, " + name;
    }
}
