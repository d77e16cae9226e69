/** Greets everybody that it is told of. */
public final class Greeter {
    public static void main(String[] names) {
        for (String name : names) {
            System.out.println(Greet.hello(name));
        }
    }
}
