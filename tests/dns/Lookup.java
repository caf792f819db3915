import java.util.Hashtable;
import javax.naming.NameNotFoundException;
import javax.naming.NamingEnumeration;
import javax.naming.NamingException;
import javax.naming.directory.Attribute;
import javax.naming.directory.InitialDirContext;

/** Asks by the resolver of the JDK: {@code java Lookup.java PORT NAME TYPE} prints a record a line, or the error. */
public final class Lookup {
    private Lookup() {
    }

    public static void main(String[] arguments) throws NamingException {
        Hashtable<String, String> settings = new Hashtable<>();
        settings.put("java.naming.factory.initial", "com.sun.jndi.dns.DnsContextFactory");
        settings.put("java.naming.provider.url", "dns://127.0.0.1:" + arguments[0]);
        try {
            Attribute found = new InitialDirContext(settings)
                .getAttributes(arguments[1], new String[] {arguments[2]}).get(arguments[2]);
            if (found == null) {
                System.out.println("no records");
                return;
            }
            NamingEnumeration<?> records = found.getAll();
            while (records.hasMore()) {
                System.out.println(records.next());
            }
        } catch (NameNotFoundException absent) {
            System.out.println("not found");
        } catch (NamingException failure) {
            System.out.println("failed");
        }
    }
}
