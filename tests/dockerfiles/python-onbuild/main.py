import os

import inflect

print(os.environ["GREETING"], inflect.engine().number_to_words(42))
