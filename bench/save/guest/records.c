/*
 * What the guests of `npm run bench:save` fill their databases with and how they go on using them: on its standard
 * output, in SQL for sqlite3 or in redis's protocol.
 *
 *   records shop SEED COUNT      a shop's tables, with COUNT customers and three orders for each
 *   records trade SEED           changes to them, without end
 *   records browse SEED          queries, without end
 *   records keys SEED COUNT      COUNT sessions and users as redis keeps them
 *   records access SEED          changes and reads of them, without end
 *   records change COUNT FILE    writes 32 bytes into each of COUNT pages of FILE, evenly spread
 *
 * Words come from Debian's word list, some often and most rarely (Zipf), so that text packs about as text does. The
 * rest is what records are made of: numbers that count up, times, prices, hexadecimal identities that nothing packs.
 */
#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static uint64_t state;

/* SplitMix64 */
static uint64_t any(void) {
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static unsigned below(unsigned n) { return (any() >> 32) * n >> 32; }

static char *words[120000];
static unsigned word_count;

static void load_words(void) {
    FILE *file = fopen("/usr/share/dict/words", "r");
    char line[100];
    if (file == NULL) exit(1);
    while (fgets(line, sizeof line, file) && word_count < sizeof words / sizeof *words) {
        line[strcspn(line, "\n'")] = 0; /* SQL's quote stands in some */
        words[word_count++] = strdup(line);
    }
    fclose(file);
    /* the frequent ones are to be of all kinds, and the same in every program whatever its seed */
    uint64_t seed = state;
    state = 42;
    for (unsigned i = word_count; i > 1; i--) {
        unsigned j = below(i);
        char *word = words[i - 1];
        words[i - 1] = words[j], words[j] = word;
    }
    state = seed;
}

/* The word of rank r comes about 1/r times as often as the first: a rank is the count to the power of a uniform number. */
static const char *word(void) {
    static unsigned ranks[4097];
    if (ranks[4096] == 0)
        for (int i = 0; i <= 4096; i++) ranks[i] = pow(word_count, i / 4096.0);
    unsigned i = below(4096), from = ranks[i], to = ranks[i + 1];
    return words[from - 1 + (to > from ? below(to - from) : 0)];
}

/* `count` words into `out`; answers their end. */
static char *text(char *out, unsigned count) {
    while (count--) {
        out = stpcpy(out, word());
        if (count) *out++ = ' ';
    }
    return out;
}

static char *hex(char *out, unsigned digits) {
    for (unsigned i = 0; i < digits; i++) *out++ = "0123456789abcdef"[any() >> 60];
    *out = 0;
    return out;
}

static unsigned now = 1700000000;

static void customer(unsigned id) {
    char name[200], mail[300], note[4000];
    text(name, 2), text(mail, 1), text(note, 4 + below(40));
    printf("INSERT INTO customer VALUES(%u,'%s','%s%u@example.%s','%u %s',%u,'%s');\n", id, name, mail, below(1000),
           below(3) ? "com" : "org", below(300), word(), now += below(60), note);
}

static void order(unsigned customers) {
    char reference[40], remark[2000];
    hex(reference, 24), text(remark, below(16));
    printf("INSERT INTO purchase(customer,reference,at,article,quantity,cents,state,remark) "
           "VALUES(%u,'%s',%u,'%s-%u',%u,%u,'%s','%s');\n",
           1 + below(customers), reference, now += below(10), word(), below(500), 1 + below(5), 99 + below(200) * 50,
           below(4) ? "delivered" : "open", remark);
}

static void shop(unsigned count) {
    puts("PRAGMA journal_mode=WAL;"
         "CREATE TABLE customer(id INTEGER PRIMARY KEY,name TEXT,mail TEXT,street TEXT,since INTEGER,note TEXT);"
         "CREATE TABLE purchase(id INTEGER PRIMARY KEY,customer INTEGER,reference TEXT,at INTEGER,article TEXT,"
         "quantity INTEGER,cents INTEGER,state TEXT,remark TEXT);"
         "CREATE INDEX of_customer ON purchase(customer);"
         "CREATE UNIQUE INDEX by_reference ON purchase(reference);");
    for (unsigned id = 1; id <= count; id++) {
        if (id % 500 == 1) puts("BEGIN;");
        customer(id);
        for (int i = 0; i < 3; i++) order(id);
        if (id % 500 == 0 || id == count) puts("COMMIT;");
    }
}

/* The shop that `init` makes. */
enum { CUSTOMERS = 100000, KEYS = 250000 };

static void trade(void) {
    for (;;) {
        puts("BEGIN IMMEDIATE;");
        for (int i = 0; i < 20; i++) {
            unsigned who = 1 + below(CUSTOMERS);
            order(CUSTOMERS);
            printf("UPDATE purchase SET state='delivered',cents=cents+%u WHERE customer=%u;\n", below(100), who);
            printf("UPDATE customer SET since=%u WHERE id=%u;\n", now, 1 + below(CUSTOMERS));
        }
        puts("COMMIT;");
    }
}

static void browse(void) {
    for (;;) {
        printf("SELECT name,sum(cents),count(*) FROM customer JOIN purchase ON customer=customer.id WHERE customer.id=%u;\n",
               1 + below(CUSTOMERS));
        if (below(1000) == 0) printf("SELECT count(*) FROM customer WHERE note LIKE '%%%s%%';\n", word());
    }
}

/* A command to redis. */
static void command(int count, const char *const *arguments) {
    printf("*%d\r\n", count);
    for (int i = 0; i < count; i++) printf("$%zu\r\n%s\r\n", strlen(arguments[i]), arguments[i]);
}

static void session(unsigned id) {
    char key[40], value[6000], token[40], *end;
    hex(token, 32);
    sprintf(key, "session:%u", id);
    end = value + sprintf(value, "{\"user\":%u,\"token\":\"%s\",\"since\":%u,\"agent\":\"Mozilla/5.0 (X11; Linux x86_64; rv:%u.0) "
                          "Gecko/20100101 Firefox/%u.0\",\"cart\":[", id, token, now += below(9), 90 + id % 30, 90 + id % 30);
    for (unsigned i = below(5); i > 0; i--)
        end += sprintf(end, "{\"article\":\"%s-%u\",\"cents\":%u},", word(), below(500), 99 + below(200) * 50);
    end = stpcpy(end, "],\"history\":\"");
    end = text(end, 5 + below(60));
    strcpy(end, "\"}");
    command(3, (const char *[]){"SET", key, value});
}

static void user(unsigned id) {
    char key[40], name[200], mail[200], seen[20];
    sprintf(key, "user:%u", id);
    text(name, 2);
    sprintf(mail, "%s%u@example.com", word(), below(1000));
    sprintf(seen, "%u", now);
    command(8, (const char *[]){"HSET", key, "name", name, "mail", mail, "seen", seen});
}

static void keys(unsigned count) {
    for (unsigned id = 0; id < count; id++) {
        session(id);
        if (id % 3 == 0) user(id);
    }
}

static void access_keys(void) {
    for (;;) {
        unsigned id = below(KEYS);
        char key[40];
        switch (below(4)) {
        case 0: session(id); break;
        case 1: user(id); break;
        case 2: sprintf(key, "hits:%u", id % 5000), command(2, (const char *[]){"INCR", key}); break;
        case 3: sprintf(key, "session:%u", id), command(2, (const char *[]){"GET", key}); break;
        }
    }
}

static int change(unsigned count, const char *path) {
    int file = open(path, O_RDWR);
    struct stat status;
    if (file < 0 || fstat(file, &status) != 0) return 1;
    uint64_t pages = status.st_size / 4096;
    for (uint64_t i = 0; i < count; i++) {
        char bytes[33];
        off_t at = (i * pages / count) * 4096 + below(4096 / 32) * 32;
        hex(bytes, 32);
        if (pages < count || pwrite(file, bytes, 32, at) != 32) return 1;
    }
    return 0;
}

int main(int count, char **arguments) {
    if (count < 3) return 2;
    const char *what = arguments[1];
    unsigned number = atoi(arguments[2]), many = count > 3 ? atoi(arguments[3]) : 0;
    state = (uint64_t)number << 32;
    if (strcmp(what, "change") == 0 && count > 3) return change(number, arguments[3]);
    load_words();
    if (strcmp(what, "shop") == 0) shop(many);
    if (strcmp(what, "trade") == 0) trade();
    if (strcmp(what, "browse") == 0) browse();
    if (strcmp(what, "keys") == 0) keys(many);
    if (strcmp(what, "access") == 0) access_keys();
    return 0;
}
